"""The fit loop, losses, policies, evaluation, the run directory's contents."""
