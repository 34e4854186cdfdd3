"""A Jupyter kernel that is always the running Python."""

from __future__ import annotations

from collections.abc import Mapping

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from rimkit.behavior.chosen import JUDGE, LENGTH, PROMPTS
from rimkit.behavior.redaction import KEEP


class RunningPython(AsyncKernelManager):
    """Starts ``sys.executable -m ipykernel_launcher``, whatever kernels are installed under whatever name.

    A kernel called "python3" in the user's folder may belong to another environment, in which rimkit is
    missing or of another version; chapters must run where the command runs. Text of safety sets is withheld
    in it (`rimkit.behavior.redaction`) and the prompt sets and judge are the workbook's (`rimkit.behavior.chosen`),
    whatever the environment says: a run is told by its own options (`with_settings`).
    """

    settings: Mapping[str, str] = {KEEP: "", PROMPTS: "", JUDGE: "", LENGTH: ""}

    @property
    def kernel_spec(self) -> KernelSpec:
        quietly = ["--IPKernelApp.log_level=50"]  # nothing about connections, or interrupted messages
        return KernelSpec(resource_dir=RESOURCES, env=dict(self.settings), **get_kernel_dict(extra_arguments=quietly))


def with_settings(settings: Mapping[str, str]) -> type[RunningPython]:
    """The same, for a run with these environment variables."""
    return type("RunningPython", (RunningPython,), {"settings": {**RunningPython.settings, **settings}})
