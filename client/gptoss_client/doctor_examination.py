"""What several checks of the machine need to know, each asked for once.

Stage: `gptoss doctor`.
Owns: the questions to torch, the driver and the placement.
Does not know: what is made of the answers.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gptoss_backend.engine.native import library
from gptoss_backend.environment import child_environment
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import ServerSettings, Settings
from gptoss_client.checkpoint import find_checkpoint
from gptoss_client.errors import CommandError, DriverError, UsageError
from gptoss_client.gpu import Gpu, list_gpus
from gptoss_client.placing import place, with_num_replicas
from gptoss_client.run_state import RunDirectory

_PROBE_TIMEOUT_S: Final = 120.0
# in a process of its own: the client never loads torch, and a broken one may take its process with it
_TORCH_PROBE: Final = """
import json, torch
from gptoss_backend.engine.memory import available_bytes
sees_gpu = torch.cuda.is_available()
cards = range(torch.cuda.device_count()) if sees_gpu else ()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "sees_gpu": sees_gpu,
                  "capabilities": [(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in cards],
                  "architectures": torch.cuda.get_arch_list(),
                  "host_bytes": available_bytes(torch.device("cpu"))}))
"""


class Examination:
    """One look at this machine, for serving with these settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = settings.served_models
        self.run = RunDirectory(settings.server.run_dir)
        self.environment = child_environment(self.run.config)

    @cached_property
    def gpus(self) -> list[Gpu]:
        """The cards that a process sees."""
        return list_gpus(self.environment)

    @cached_property
    def placed(self) -> Settings | UsageError:
        """The settings with the number of replicas, or why the models cannot be placed so."""
        try:
            return with_num_replicas(self.settings, self.environment)
        except DriverError:  # which another check tells
            return self.settings
        except UsageError as error:
            return error

    @cached_property
    def left_out(self) -> set[int]:
        """The cards that do not serve, by their place among those that a process sees."""
        with contextlib.suppress(CommandError):  # which another check tells
            if shares := place(self.settings, self.environment).shares:
                return set(range(len(self.gpus))).difference(*shares)
        return set()

    @property
    def server(self) -> ServerSettings:
        """Where the server would listen, with the number of replicas where the models can be placed."""
        return self.settings.server if isinstance(self.placed, UsageError) else self.placed.server

    @cached_property
    def torch_facts(self) -> Mapping[str, Any]:
        """What torch says of itself; empty but for `error` where it cannot be imported."""
        command = (sys.executable, "-c", _TORCH_PROBE)
        try:
            probe = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
            )
            facts: dict[str, Any] = json.loads(probe.stdout)
        except subprocess.CalledProcessError as error:
            return {"error": error.stderr.strip().rpartition("\n")[2]}
        except (subprocess.TimeoutExpired, ValueError) as error:
            return {"error": str(error)}
        return facts

    @cached_property
    def folders(self) -> Mapping[ModelShort, Path | None]:
        """Where each model's checkpoint lies; None: nowhere here."""
        return {model: find_checkpoint(self.settings.checkpoints[model]) for model in self.models}

    @cached_property
    def why_no_kernels(self) -> str | None:
        """Why the C++ kernels would not compute on this processor; None where they would."""
        if self.settings.engine.cpu_kernels == "torch":
            return "engine.cpu_kernels is torch"
        if library.instruction_set_here() is None:
            return "the processor lacks AVX2"
        return None if library.find_compiler() else "there is no C++ compiler"

    @property
    def names(self) -> str:
        """The models, for a sentence."""
        return " and ".join(self.models)
