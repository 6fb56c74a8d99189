"""Recipes with stages."""

from __future__ import annotations

from support.bad_inputs.bad import LAUNCH, Bad

MEASURED = ("data.hash_split={train: 0.5, test: 0.5}", "data.test_split=test")
TWO = "continual.stages=[{classes: [class0]}, {classes: [class1, class2]}]"


def _stages(what: str, told: str, *overrides: str, command: tuple[str, ...] = LAUNCH) -> Bad:
    return Bad(f"stages: {what}", (told,), (*command, *MEASURED, *overrides))


OF_STAGES = [
    _stages("one alone", "continual.stages", "continual.stages=[{classes: [class0]}]"),
    _stages("nothing to measure on", "write data.test_split or data.validation_split", TWO, "data.test_split=null"),
    _stages(
        "a class that is not there",
        "continual.stages.1.classes: data has no class 'clas1'. Did you mean class1?",
        "continual.stages=[{classes: [class0]}, {classes: [clas1]}]",
    ),
    _stages(
        "a class twice",
        "continual.stages.1: class0 of data comes in stage 1 already: a stage brings other classes",
        "continual.stages=[{classes: [class0]}, {classes: [class2, class0]}]",
    ),
    _stages(
        "nothing new", "continual.stages.1: class0 of data comes in stage 1 already", "continual.stages=[{}, {}]"
    ),
    _stages(
        "data that are not there",
        "gone: no such folder. `megabatch data import",
        "continual.stages=[{classes: [class0]}, {path: gone}]",
    ),
    _stages("a buffer larger than the old data", "stage 2: data: train_samples: 60 is 60 of each of 1 classes, and there "
            "are", TWO, "continual.replay.samples=60"),
    _stages("a buffer smaller than the classes", "continual.replay.samples: 1 is less than one of each of 2 classes",
            "continual.stages=[{classes: [class0, class1]}, {classes: [class2]}]", "continual.replay.samples=1"),
    _stages("a replay of everything", "continual.replay.share: 1: should be less than 1", TWO,
            "continual.replay={samples: 3, share: 1}"),
    _stages("a change of the data", "changes: data.path: a stage can change keys of batch, loss",
            "continual.stages=[{classes: [class0]}, {classes: [class1], changes: {data.path: x}}]"),
    _stages("a change that is no key", "continual.stages.1.changes, optimizer.momentun=1: optimizer.momentun: unknown key",
            "continual.stages=[{classes: [class0]}, {classes: [class1], changes: {optimizer.momentun: 1}}]"),
    _stages("with classes of the recipe", "leave out data.classes", TWO, "data.classes=[class0]"),
    _stages("with a teacher of the recipe", "leave out distillation", TWO, "distillation.teachers=[a]"),
    _stages("without importance", "continual.ewc.strength: missing", TWO, "continual.ewc={}"),
    _stages("to tune", "continual: a recipe with stages is started by `megabatch launch`", TWO,
            command=("tune", "lr", "recipe.yaml")),
    _stages("to ablate", "continual: a recipe with stages is started by `megabatch launch`", TWO,
            command=("ablate", "recipe.yaml", "--vary", "epochs=1")),
    _stages("to start by hand", "--write: a recipe with stages is no single job", TWO,
            command=("launch", "recipe.yaml", "--dry-run", "--write", "by-hand")),
    _stages("as one plan in JSON", "--json and --svg show one run", TWO, command=("plan", "recipe.yaml", "--json")),
]  # fmt: skip
