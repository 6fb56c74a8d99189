"""`megabatch quantize`: reads arguments, has a network of few bits written and measured, prints both side by side."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import JsonOption, or_exit_study
from megabatch.launcher.completion import complete_run
from megabatch.launcher.json_output import answer, json_alone


class QuantizationChoice(StrEnum):
    """What is quantized, and by what."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHTS_INT8 = "weights-int8"
    WEIGHTS_INT4 = "weights-int4"
    TRAINED = "trained"


class CalibrationChoice(StrEnum):
    """How ranges of activations are chosen from what samples have."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


def quantize(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR|latest", help="Folder of a trained run.", autocompletion=complete_run)
    ],
    name: Annotated[
        QuantizationChoice | None,
        typer.Option(help="What is quantized (docs/quantization.md; default: trained for a run of int8, else static)."),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of static: training samples to calibrate with (default 512).")
    ] = None,
    calibration: Annotated[
        CalibrationChoice | None, typer.Option(help="Of static: how ranges are chosen (default minmax).")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Layers that stay in full precision; may be given again.")
    ] = None,
    checkpoint: Annotated[str, typer.Option(help="best, last, or the step of a checkpoint.")] = "best",
    raw: Annotated[bool, typer.Option("--raw", help="The weights themselves, where the recipe averages them.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="PATH", help="New file (default: in RUN_DIR/exports).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a trained network as ONNX with 8 or 4 bits, and measure it beside float32."""
    from megabatch.launcher.study import quantize as study
    from megabatch.launcher.table import print_table

    asked = study.Asked(
        name.value if name else None, samples, calibration.value if calibration else None, keep or [], checkpoint, raw,
        output,
    )  # fmt: skip
    with json_alone(as_json):
        found = or_exit_study(lambda: study.quantize(run_dir, asked, lambda text: typer.echo(text, err=True)))
        answer(**found)
        averaged = ", averaged weights" if found["weights"] == "averaged" else ""
        typer.echo(f"network:   {found['checkpoint']}{averaged}")
        typer.echo(f"written:   {found['output']}\n")
        print_table(["", "fp32", found["name"], ""], study.rows(found))
        typer.echo("\n" + "\n".join(study.agreement_lines(found)))
