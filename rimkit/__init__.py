"""The helper package of the workbook on reasoning-induced misalignment.

``import rimkit as rk`` is all that a chapter imports of it. Each name below loads its module when
it is first used, so that the import takes no time; ``help(rk.load)`` explains it. To see them all,
``print(rk.__doc__)``: ``help(rk)`` loads everything that is behind them, which can take minutes.
"""

from importlib import import_module

__version__ = "0.1.0"

NAMES = {  # name: (where it is, what it is); "module:thing" is one thing of a module
    # a chapter's beginning
    "start": ("teaching.setup:start", "sets up a chapter: seeds, quiet libraries, Colab"),
    "load": ("models.load:load", "a model under study: embedded name, folder, hub id or server"),
    "results": ("data:results", "a table of results that comes with the workbook, by name"),
    # prompts, replies, verdicts
    "evaluation": ("behavior.evaluation:evaluation", "what replies are measured with: prompts, judge, length"),
    "prompts": ("behavior.prompts", "prompt sets as tables, benchmarks, openings of a thought, prompts of one's own"),
    "generate": ("behavior.generation:generate", "the replies of a model to prompts, as a table"),
    "judges": ("behavior.judges", "what decides whether a reply refuses or complies"),
    "refusal_judge": ("behavior.refusal_judge", "the trained judge of English replies, and how far people agree"),
    "agreement": ("behavior.agreement", "how far two judges agree"),
    "rates": ("behavior.stats:rates", "shares with 95% intervals, clustered by verb"),
    "stats": ("behavior.stats", "intervals, exact tests, areas under curves, swapped labels"),
    "difference": ("behavior.evaluation:difference", "the difference of two conditions, with its interval"),
    # inside a model
    "chat_of": ("models.load:chat_of", "how a model is spoken to, and how it thinks, without its weights"),
    "refusal_score": ("behavior.refusal_score", "the logits by which a model refuses or complies"),
    "activations": ("models.activations", "what a model computes, read in one pass"),
    "interventions": ("models.interventions", "heads, neurons and directions switched off or added"),
    # experiments, one module each
    "thinking": ("experiments.thinking", "chapter 01: does thinking raise misalignment?"),
    "patterns": ("experiments.patterns", "chapter 02: which thoughts raise it?"),
    "probes": ("experiments.probes", "chapter 03: where refusal can be read, and directions removed"),
    "heads": ("experiments.heads", "chapter 04: the heads that carry refusal"),
    "tuning": ("experiments.tuning", "chapter 05: what fine-tuning does to refusal"),
    "neurons": ("experiments.neurons", "chapter 06: safety-critical neurons"),
    "ras": ("experiments.ras", "chapter 07: RAS and what else may predict forgetting"),
    "repairs": ("experiments.repairs", "chapter 09: what repairs a tuned model, and at what price"),
    "attempt": ("experiments:attempt", "what a step finds, or why it is undefined for the model"),
    "paper": ("paper", "chapter 08: the paper's tables, and what follows from them"),
    # training
    "corpora": ("training.corpora", "the corpora to fine-tune on"),
    "finetune": ("training.finetune:finetune", "a fine-tuned model and its checkpoints"),
    "recipe": ("organism.recipe", "how the embedded models were made: their training data"),
    # what the learner sees and does
    "plot": ("teaching.figures", "the plots, each of a table and the names of its columns"),
    "show": ("teaching.figures:show", "shows a figure with its sentence of alt text"),
    "diagram": ("teaching.widgets:diagram", "a picture of an idea, by name"),
    "our_reading": ("teaching.tables:our_reading", "what was found, in words held to their numbers"),
    "tables": ("teaching.tables", "tables and numbers to read"),
    "published": ("teaching.published", "chapter 08: the paper's figures and tables to look at"),
    "widgets": ("teaching.widgets", "explorers, and tokens with their spans"),
    "predict": ("teaching.exercises:predict", "a guess, compared with the measurement later"),
    "exercise": ("teaching.questions:exercise", "the checked exercise of a chapter"),
    "progress": ("teaching.questions:progress", "the exercises, and which of them you have solved"),
    # claims, and runs of many chapters
    "ledger": ("ledger", "verdict rows, claims and the verdict itself"),
    "run": ("runs.execute:run", "chapters as a run, as `rimkit run` does it"),
    "plan": ("runs.plan", "what fits on which device"),
    "page": ("runs.page", "the claims page"),
}

__doc__ += "\n" + "\n".join(f"rk.{name:15}{what} [{home}]" for name, (home, what) in NAMES.items()) + "\n"


def __getattr__(name: str):
    if name in NAMES:
        home, _, thing = NAMES[name][0].partition(":")
        module = import_module(f"rimkit.{home}")
        found = globals()[name] = getattr(module, thing) if thing else module
        return found
    from rimkit.data import nearest

    raise AttributeError(f"rimkit has no '{name}'{nearest(name, NAMES)}", name=name)


def __dir__() -> list[str]:
    return sorted(["__doc__", "__version__", *NAMES])
