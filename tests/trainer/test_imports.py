"""What a rank and the inspection of a model need not load."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["megabatch.trainer.inspect_model", "megabatch.trainer.__main__"])
def test_neither_compiler_nor_optional_packages_are_imported_before_a_recipe_asks_for_them(module: str) -> None:
    absent = ("torch._dynamo", "torchao", "timm", "wandb")
    code = f"import sys, {module}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
