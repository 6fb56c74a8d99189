"""RUN_DIR/report.html and `megabatch compare`: what a run left behind, as one page that opens without a network.

The way through: run.py reads a run folder into a frozen Run, tolerant of what is missing; a module for each section
turns it into plain values; the templates turn those into HTML, with everything escaped; page.py puts style and script
into the one file. Nothing here writes anything but that file.
"""
