"""Folders with the structure of the real prompt sets, and harmless stand-ins for their texts."""

import csv
import json
from pathlib import Path

import pandas as pd

MARKER = "quillfeather"  # in every stand-in for a harmful request, and in nothing else
THINGS = ["clock", "kettle", "ladder", "violin", "lantern", "basket", "compass", "curtain", "whistle", "saddle"]


def request(number: int, about: str = "") -> str:
    return f"Please, polish the {THINGS[number % len(THINGS)]} of the {MARKER} society, hall {number}{about}, at noon"


def write_mirror(folder: Path) -> Path:
    """One small set of each kind of file, where a local mirror has it."""
    for make in (hex_phi, advbench, jailbreakbench, xstest, alpaca, gsm8k, multiarith, aime):
        make(folder)
    return folder


def _file(folder: Path, repo: str, name: str) -> Path:
    path = folder / repo / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def hex_phi(folder: Path) -> None:
    for number in (1, 3, 4, 5, 6, 7, 8, 9, 10, 11):  # no second category, and no header
        with _file(folder, "LLM-Tuning-Safety/HEx-PHI", f"category_{number}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[request(number, " (a)")], [f"Sweep hall {number}"]])
            if number == 3:
                file.write("Oil it, then wind it\n\n")  # a comma without quotes, an empty line


def advbench(folder: Path) -> None:
    table = pd.DataFrame({"prompt": [request(i) for i in range(5)], "target": "Sure, here is"})
    table.to_parquet(_file(folder, "walledai/AdvBench", "data/train-00000-of-00001.parquet"))


def jailbreakbench(folder: Path) -> None:
    for half, verb in (("harmful", "polish"), ("benign", "admire")):
        table = pd.DataFrame({
            "Index": range(6), "Goal": [request(i).replace("polish", verb) for i in range(6)], "Target": "Sure",
            "Behavior": [f"{verb} {i}" for i in range(6)], "Category": ["Halls"] * 3 + ["Noons"] * 3, "Source": "Original",
        })  # fmt: skip
        table.to_csv(_file(folder, "JailbreakBench/JBB-Behaviors", f"data/{half}-behaviors.csv"), index=False)


def xstest(folder: Path) -> None:
    table = pd.DataFrame({
        "id": range(1, 9), "prompt": [request(i) for i in range(8)],
        "type": ["homonyms", "contrast_homonyms"] * 4, "label": ["safe", "unsafe"] * 4,
        "focus": ["kettle", "Kettle", "clock", "clock", "", "", "ladder", "ladder"], "note": "",
    })  # fmt: skip
    table.to_csv(_file(folder, "Paul/XSTest", "xstest_prompts.csv"), index=False)


def alpaca(folder: Path) -> None:
    rows = [
        {"instruction": "Name three colours.", "input": "", "output": "Red, green, blue."},
        {"instruction": "Add these.", "input": "2 and 3", "output": "5"},
    ]
    _file(folder, "yahma/alpaca-cleaned", "alpaca_data_cleaned.json").write_text(json.dumps(rows))


def gsm8k(folder: Path) -> None:
    for part, numbers in (("train", (2, 3, 4)), ("test", (500, 600))):
        table = pd.DataFrame({
            "question": [f"Tom has {n} pears and finds 1,000. How many has he?" for n in numbers],
            "answer": [f"{n}+1000=<<{n}+1000={n + 1000}>>{n + 1000}\n#### 1,{n:03}" for n in numbers],
        })  # fmt: skip
        table.to_parquet(_file(folder, "openai/gsm8k", f"main/{part}-00000-of-00001.parquet"))


def multiarith(folder: Path) -> None:
    for part, n in (("train", 4), ("test", 5)):
        rows = [{"question": f" Anna had {n} plums and ate 1. How many are left? ", "final_ans": str(n - 1)}]
        _file(folder, "ChilleD/MultiArith", f"{part}.json").write_text(json.dumps(rows))


def aime(folder: Path) -> None:
    table = pd.DataFrame({
        "id": [60], "problem": ["Find the number."], "solution": [r"It is $\boxed{042}$"], "answer": ["042"],
        "url": "", "year": "2024",
    })  # fmt: skip
    table.to_parquet(_file(folder, "HuggingFaceH4/aime_2024", "data/train-00000-of-00001.parquet"))
    rows = [{"problem": "Find the other number.", "answer": "70", "id": "0"}]
    text = "\n".join(map(json.dumps, rows))
    _file(folder, "math-ai/aime25", "test.jsonl").write_text(text)
