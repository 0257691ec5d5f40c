"""Exporting a run: a format's file writes the model, and nothing is kept that is not the model that was validated.

`ttl_deploy.export(run, format="onnx")` is `ttl_deploy.export.export_run`.
"""

from ttl_deploy.callable_room import make_callable

make_callable(__name__, "ttl_deploy.export.export_run", "export_run")
