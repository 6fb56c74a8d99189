"""`megabatch export`: reads arguments, has a network written, prints what was compared."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from megabatch.launcher.arguments import JsonOption, or_exit_study
from megabatch.launcher.completion import complete_run
from megabatch.launcher.json_output import answer, json_alone


class FormatChoice(StrEnum):
    """In which form a network is written."""

    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    EXPORTED_PROGRAM = "exported-program"
    TIMM = "timm"
    PACKED = "packed"


def export(
    run_dir: Annotated[
        str, typer.Argument(metavar="RUN_DIR|latest", help="Folder of the run.", autocompletion=complete_run)
    ],
    format_name: Annotated[FormatChoice, typer.Option("--format", help="What is written (docs/export.md).")],
    checkpoint: Annotated[str, typer.Option(help="best, last, or the step of a checkpoint.")] = "best",
    raw: Annotated[bool, typer.Option("--raw", help="The weights themselves, where the recipe averages them.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="PATH", help="New file, or folder for timm (default: in RUN_DIR/exports).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the network of a run alone, read it back, and compare what both predict."""
    from megabatch.launcher.export import export as export_network

    with json_alone(as_json):
        found = or_exit_study(lambda: export_network(run_dir, format_name.value, checkpoint, raw, output))
        answer(**found)
        averaged = ", averaged weights" if found["weights"] == "averaged" else ""
        typer.echo(f"network:   {found['checkpoint']}{averaged}")
        if found["trained_in"] not in ("fp32", "fp64"):
            typer.echo(f"           trained in {found['trained_in']}; as exported it computes in float32")
        if found["quantization"] == "int8":
            typer.echo("           trained with quantization int8; here weights are rounded and activations are not")
            typer.echo("           (megabatch quantize writes a file that computes in 8 bits)")
        typer.echo(f"written:   {found['output']}, {found['bytes']:,} bytes")
        typer.echo(
            f"read back: the largest difference is {found['difference']:.3g} in outputs of up to "
            f"{found['largest']:.3g} ({found['tolerance']:g} of that is allowed), on {found['images']}"
        )
