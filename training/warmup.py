"""Getting ready before the clock of a fit starts: compiled kernels are made or loaded here."""

from __future__ import annotations

import copy
import logging
import threading
import time

from polyfield.training.memory import is_out_of_memory
from polyfield.training.state import FitState, make_generators, make_optimiser
from polyfield.training.step import forward_backward
from polyfield.training.task import Task

logger = logging.getLogger("polyfield")
RAYS = 64
PATIENCE = 3.0  # seconds after which the user is told what takes so long


def get_ready(state: FitState, task: Task) -> float:
    """Take a step with a copy of the model, so that the first real one is as fast as the rest.

    Compiling the CPU kernels takes half a minute the first time on a machine; the user is told.
    Nothing of the state is changed, not even its random numbers.

    Returns:
        Seconds it took.
    """
    note = threading.Timer(
        PATIENCE,
        logger.warning,
        ["getting ready; the first time on a machine kernels are compiled, which takes up to 40 s"],
    )
    note.daemon = True
    begin = time.monotonic()
    note.start()
    try:
        _trial_step(state, task)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        logger.info("no memory for a trial step (%s)", error)  # the real one gets smaller
    finally:
        note.cancel()
    return time.monotonic() - begin


def _trial_step(state: FitState, task: Task) -> None:
    model = copy.deepcopy(state.model)
    generators = make_generators(0, model.device)
    trial = FitState(model, make_optimiser(model, state.config), state.config, *generators)
    trial.rays = trial.max_rays = min(RAYS, state.rays)
    if model.sampler is not None:
        model.sampler.update(model.field, 0, trial.generator)
    forward_backward(trial, task)
    trial.optimiser.step()
