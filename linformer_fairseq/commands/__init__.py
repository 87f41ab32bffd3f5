"""The arguments of each subcommand of `linformer`, one file each: `main(argv)` returns the exit status.

At the top of each file only what `--help` needs is imported; the work is imported where it begins.
"""
