"""`megabatch export`: the network alone, in a file that others can use, read back and compared before it counts.

One module per format with `write` and `read`; formats.py names them. No file has a pickle in it.
"""
