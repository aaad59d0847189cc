"""``polyfield fit``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from polyfield.apps.options import (
    budget_options,
    compose,
    device_option,
    emit,
    json_option,
    prepare_process,
    set_option,
    threads_option,
)


@click.command("fit", short_help="Fit a field to a scene or a signal.")
@click.argument("scene")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Run folder to write.")
@click.option("--backbone", help="What holds the scene (polyfield list backbones).")
@click.option("--renderer", help="How it is measured (polyfield list renderers).")
@click.option("--preset", help="A backbone's named settings, e.g. paper or cpu.")
@click.option("--max-parameters", type=click.IntRange(min=1), metavar="N",
              help="Scale the backbone to at most N parameters (of a new run).")  # fmt: skip
@click.option("--holdout", metavar="SPEC", help="Views for evaluation: 2,7 or every:8 or 0.1.")
@click.option("--format", "format_", help="Force a scene format (polyfield list formats).")
@click.option("--downscale", type=click.IntRange(min=1), help="Divide image sizes by this.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--resume", "resume_", is_flag=True, help="Go on if the run exists already.")
@click.option("--tensorboard", is_flag=True, help="Also write RUN/tensorboard.")
@compose(budget_options, set_option, device_option, threads_option, json_option)
def command(scene: str, out: Path, **options: Any) -> None:
    """Fit a field to SCENE (a folder, a file, or sample:NAME) and write a run to --out.

    SCENE may also be a signal: an image, a sound, a video, a volume or a mesh.

    Ctrl-C saves the run and leaves; 'polyfield resume RUN' goes on exactly where it was.
    """
    prepare_process(options["threads"])
    from polyfield.apps.progress import FitProgress
    from polyfield.run import RunDirectory
    from polyfield.training.fit import fit, resume

    budget = {"minutes": options["minutes"], "steps": options["steps"]}
    log = out / "tensorboard" if options["tensorboard"] else None
    with FitProgress(log) as progress:
        if options["resume_"] and RunDirectory(out).has_state:
            user = settings_from(options)
            refuse_another_run(RunDirectory(out), scene, user)
            result = resume(
                out, **budget, settings=resumable(user), device=options["device"],
                progress=progress,
            )  # fmt: skip
        else:
            result = fit(
                scene, out, **budget, settings=settings_from(options), preset=options["preset"],
                max_parameters=options["max_parameters"], device=options["device"],
                progress=progress,
            )  # fmt: skip
    emit(asdict(result), options["as_json"], describe(result))


def refuse_another_run(run: Any, scene: str, user: dict[str, Any]) -> None:
    """With --resume, what cannot change must be what the run was made with.

    Raises:
        ConfigError: Another scene, component, preset or setting is asked for.
    """
    from polyfield.errors import ConfigError
    from polyfield.training.fit import RESUMABLE
    from polyfield.training.task import stored_path

    config = run.read_config()
    asked = {"scene": stored_path(scene)}
    stored = {"scene": config["scene"]["path"]}
    for section, value in user.items():
        if section in RESUMABLE or section == "seed":
            continue
        for name, wanted in value.items() if isinstance(value, dict) else ():
            asked[f"{section}.{name}"] = wanted
            stored[f"{section}.{name}"] = config["settings"].get(section, {}).get(name)
    for name, wanted in asked.items():
        if stored[name] != wanted:
            raise ConfigError(
                f"{run.path} was made with {name} {stored[name]!r}, not {wanted!r}; give the same "
                "to go on with it, or another --out to start anew"
            )


def resumable(user: dict[str, Any]) -> dict[str, Any]:
    """The part of the settings that a resumed run takes."""
    from polyfield.training.fit import RESUMABLE

    return {name: value for name, value in user.items() if name in RESUMABLE and value is not None}


def settings_from(options: dict[str, Any]) -> dict[str, Any]:
    """Nested settings from the options; --set wins."""
    from polyfield.config import merge, parse_overrides

    data = {"holdout": options["holdout"], "format": options["format_"]}
    data["downscale"] = options["downscale"]
    settings: dict[str, Any] = {"seed": options["seed"], "threads": options["threads"]}
    settings["data"] = {key: value for key, value in data.items() if value is not None}
    for section in ("backbone", "renderer"):
        if options[section] is not None:
            settings[section] = {"type": options[section]}
    return merge(settings, parse_overrides(options["overrides"]))


def describe(result: Any) -> str:
    """A fit's figures and what to do next."""
    images = result.modality == "images"
    files = {"image": "out.png", "audio": "out.wav", "video": "out.mp4", "volume": "out.npy"}
    then = "--path orbit --out orbit.mp4"
    if not images:
        then = f"--out {files.get(result.modality, 'out.ply')}"
    lidar = result.modality == "lidar"
    if lidar:
        then = "--path test --out sweeps"
    quality = "" if lidar else f"training PSNR {result.psnr:.2f} dB, "
    unit = "beams" if lidar else "rays" if images else "points"
    return (
        f"{result.run}: {result.steps} steps in {result.seconds:.0f} s, {quality}"
        f"{result.rays_per_second:,.0f} {unit}/s, "
        f"{result.parameters:,} parameters, {result.bytes / 2**20:.1f} MB\n"
        f"next: polyfield eval {result.run}   or   polyfield render {result.run} {then}"
    )
