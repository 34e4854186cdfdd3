"""Where a model is computed and in which numbers: device, dtype, several GPUs, four bits."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import NamedTuple

from rimkit.errors import UserError, nearest

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZED = ("4bit",)
SPREAD = "auto"


class Place(NamedTuple):
    """``device`` ("cpu", "cuda:1" …, or "auto": spread over all GPUs), ``dtype``, and None or "4bit"."""

    device: str
    dtype: str
    quantize: str | None = None


def choose_device(
    device: str | None, dtype: str | None, *, capability: tuple[int, int] | None, mps: bool
) -> tuple[str, str, str]:
    """``(device, dtype, note)`` for what was asked (None: choose) and what is there.

    ``capability``: of the NVIDIA GPU, None without one. The CPU computes in float32; a GPU in bfloat16 from
    capability 8 on and in float16 below (a T4 emulates bfloat16, slowly, while torch calls it supported);
    an Apple GPU is used only when asked for, because its results differ from the CPU's. "auto" spreads a model over
    all GPUs. A note is one line for the user.
    """
    note = ""
    if device is None:
        device = "cuda" if capability else "cpu"
        if mps and not capability:
            note = 'running on the CPU; ask for the Apple GPU with device="mps"'
    if not re.fullmatch(r"cpu|mps|auto|cuda(:\d+)?", device):
        raise UserError(f"unknown device {device!r}: use 'cpu', 'cuda', 'mps', or 'auto' for several GPUs")
    there = {"cpu": True, "auto": True, "cuda": capability, "mps": mps}
    if not there[device.partition(":")[0]]:
        raise UserError(f"there is no device {device!r} here: leave device out to use the CPU")
    if dtype is None:
        on_gpu = "bfloat16" if capability and capability[0] >= 8 else "float16"
        dtype = on_gpu if device.startswith("cuda") or (device == SPREAD and capability) else "float32"
    return device, dtype, note


def choose_here(device: str | None, dtype: str | None, quantize: str | None = None) -> Place:
    """The place for what was asked on this machine; raises ``UserError`` where it cannot be had."""
    import torch

    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    mps = torch.backends.mps.is_available()
    device, dtype, note = choose_device(device, dtype, capability=capability, mps=mps)
    if note:
        print(note)
    if quantize is not None:
        check_quantize(quantize, on_gpu=capability is not None and device not in ("cpu", "mps"))
    return Place(device, dtype, quantize)


def check_quantize(quantize: str, *, on_gpu: bool) -> None:
    """Raise ``UserError`` unless four bits can be had: they need an NVIDIA GPU and bitsandbytes."""
    if quantize not in QUANTIZED:
        raise UserError(f"unknown quantize={quantize!r}: use '4bit'{nearest(quantize, QUANTIZED)}")
    if not on_gpu:
        raise UserError("4-bit weights need an NVIDIA GPU: on this device leave quantize (or +4bit) out")
    if find_spec("bitsandbytes") is None:
        raise UserError("4-bit weights need the package bitsandbytes: pip install bitsandbytes")


def settings_of(place: Place) -> dict:
    """The arguments of ``from_pretrained`` for a place; without a device map the model is moved afterwards."""
    import torch

    dtype = getattr(torch, place.dtype)
    settings = {"dtype": dtype}
    if place.device == SPREAD:
        settings["device_map"] = SPREAD
    if place.quantize:
        from transformers import BitsAndBytesConfig

        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        settings.setdefault("device_map", {"": place.device})
    return settings


def check_spread(name: str, hf) -> None:
    """Raise ``UserError`` if several GPUs together did not hold the model, and part of it lies elsewhere."""
    places = {str(place) for place in (getattr(hf, "hf_device_map", None) or {}).values()}
    outside = sorted(places & {"cpu", "disk"})
    if "disk" in places or (outside and len(places) > len(outside)):
        raise UserError(
            f"{name} is too large for the devices here: part of it would lie on {' and '.join(outside)}; load it in "
            f"4 bits ('{name}+4bit') or take a smaller model"
        )


def dtype_name(dtype) -> str | None:
    """The name of a dtype given as text or as torch's; raises ``UserError`` for one that is not in `DTYPES`."""
    name = None if dtype is None else str(dtype).removeprefix("torch.")
    if name is not None and name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}: use {', '.join(DTYPES)}{nearest(name, DTYPES)}")
    return name


def move(hf, device: str | None, dtype: str | None):
    """A module in memory, moved if a device or dtype is asked for."""
    import torch

    if device == SPREAD:
        raise UserError("a model in memory stays on one device: load it by its name to spread it over several")
    if device is not None:
        hf = hf.to(choose_here(device, dtype).device)
    return hf if dtype is None else hf.to(getattr(torch, dtype))
