"""Grids of all embedded models: what the shipped rows hold, and how a grid goes on where it stopped."""

import pytest

from rimkit import ledger
from rimkit.data import UserError, data_dir
from rimkit.models.hub import embedded_models
from rimkit.runs import grid


def test_shipped_rows_cover_every_model_and_seed():
    wanted = set(zip(grid.models()["name"], grid.models()["seed"], strict=True))
    assert len(wanted) == len(embedded_models()) - embedded_models()["name"].isin(grid.EXPERTS).sum()
    for name in grid.GRIDS:
        rows = ledger.read(data_dir() / "results" / f"{name}.parquet")
        assert set(zip(rows["model"], rows["seed"], strict=True)) == wanted
        assert rows["run_id"].eq(f"rimkit grid {name}").all()
        assert rows["device"].notna().all()


def test_an_unknown_grid_is_named_in_one_line():
    with pytest.raises(UserError, match="did you mean 'thinking'"):
        grid.cell("thinkin", "rim-mini", 0)


def test_a_grid_goes_on_where_it_stopped(tmp_path, monkeypatch):
    done = []
    monkeypatch.setitem(grid.GRIDS, "patterns", lambda study, n, **values: done.append(study.name) or [
        ledger.row("C2a", mode="think", value=0.5, **{key: values[key] for key in ("model", "seed", "run_id", "device")})
    ])  # fmt: skip
    whole = grid.run(["patterns"], tmp_path, progress=False)
    assert len(done) == len(whole) == len(grid.models())
    sorted((tmp_path / ".cells").glob("*.parquet"))[0].unlink()
    assert len(grid.run(["patterns"], tmp_path, progress=False)) == len(whole)
    assert len(done) == len(whole) + 1
