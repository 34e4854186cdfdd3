"""rimkit: the helper package of the workbook on reasoning-induced misalignment."""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "load":  # lazily, so that `import rimkit` stays light
        from rimkit.models.load import load

        return load
    raise AttributeError(f"module 'rimkit' has no attribute {name!r}")
