"""A Jupyter kernel that is always the running Python."""

from __future__ import annotations

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from rimkit.behavior.redaction import KEEP


class RunningPython(AsyncKernelManager):
    """Starts ``sys.executable -m ipykernel_launcher``, whatever kernels are installed under whatever name.

    A kernel called "python3" in the user's folder may belong to another environment, in which rimkit is
    missing or of another version; chapters must run where the command runs. Text of safety sets is withheld
    in it (`rimkit.behavior.redaction`), whatever the environment says: a run is told by its own flag.
    """

    keep_text = False

    @property
    def kernel_spec(self) -> KernelSpec:
        quietly = ["--IPKernelApp.log_level=50"]  # nothing about connections, or interrupted messages
        env = {KEEP: "1" if self.keep_text else ""}
        return KernelSpec(resource_dir=RESOURCES, env=env, **get_kernel_dict(extra_arguments=quietly))


class KeepingText(RunningPython):
    """The same, for a run that was told to keep text."""

    keep_text = True
