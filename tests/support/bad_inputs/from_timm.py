"""Commands of timm's train.py, and args.yaml files, that cannot be read."""

from __future__ import annotations

from support.bad_inputs.bad import Bad, written

_COMMANDS = {
    "--smothing 0.2": ("--smothing: train.py has no such argument. Did you mean --smoothing?",),
    "--zzz": ("--zzz: train.py has no such argument. All of them: docs/from-timm.md",),
    "--epochs ten": ("argument --epochs: invalid int value: 'ten'",),
    "--epoch 3": ("could match --epochs, --epoch-repeats",),
    "--warmup-lr nan": ("argument --warmup-lr: invalid number value: 'nan'",),
    "--min-lr 1e999": ("argument --min-lr: invalid number value: '1e999'",),
    "/data more": ("more: belongs to no argument of train.py",),
    "--experiment 'x": ("no shell command: No closing quotation",),
    "torchrun --nproc_per_node=gpu train.py": ("'gpu' processes: how many are they?", "--ranks N"),
    "torchrun --nnodes=1:4 --nproc_per_node=8 train.py": ("'1:4 x 8' processes: how many are they?",),
    "--smoothing 1.5": ("regularization.label_smoothing: 1.5: should be less than 1",),
    "--lr -1": ("optimizer.base_learning_rate: -1.0: should be greater than 0",),
    "--lr-base-size 0": ("--lr-base-size: 0: write a number above 0",),
    "--batch-size 0": ("--batch-size: 0: write a number above 0",),
    "--aug-repeats 1.5": ("--aug-repeats: 1.5: only whole repeats",),
    "--crop-pct 1e-300": ("--crop-pct: 1e-300: write a number from 0.01 to 1",),
    "--scale 0.5": ("--scale: 1 numbers: write smallest and largest",),
    "--mean 1 2": ("--mean: 2 numbers: write one, or three",),
    "--clip-grad 1 --clip-mode x": ("--clip-mode: 'x': timm knows norm, value, agc",),
    "--amp --amp-dtype int8": ("'int8' is no number format of train.py",),
    "--sched step --decay-rate 2": ("--decay-rate: 2: write a number between 0 and 1",),
    "--sched step --decay-epochs 0": ("--decay-epochs: 0: write a number that makes 1000 steps at most",),
    "--opt-kwargs a": ("--opt-kwargs: 'a' is no key=value",),
    "--val-interval 0": ("--val-interval: 0: write a number above 0",),
    "-c nothere.yaml": ("nothere.yaml: cannot be read",),
}
_FILES = {
    "an unknown key": (
        "lr: 0.1\nsmothing: 0.2\n",
        "x.yaml:2:1: smothing: train.py has no such argument. Did you mean smoothing?",
    ),
    "a text for a number": ("epochs: ten\n", "x.yaml:1:1: epochs: 'ten' is not what train.py takes: write an integer"),
    "a number that is none": ("min_lr: .nan\n", "x.yaml:1:1: min_lr: nan is not what train.py takes: write a number"),
    "a number for a list": (
        "mean: 0.5\n",
        "x.yaml:1:1: mean: 0.5 is not what train.py takes: write a list, each a number",
    ),
    "a list": ("- 1\n", "the top level is not a mapping"),
}

_CALL = ("config", "from-timm")
OF_TIMM = [
    *(Bad(f"from-timm {command}", told, (*_CALL, command)) for command, told in _COMMANDS.items()),
    *(Bad(f"from-timm with {what} in a file", (told,), (*_CALL, "--file", "x.yaml"), written("x.yaml", text))
      for what, (text, told) in _FILES.items()),
    Bad("from-timm with nothing", ("give the command in quotes, or --file args.yaml",), _CALL),
]  # fmt: skip
