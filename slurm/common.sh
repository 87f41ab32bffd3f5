# Sourced by the scripts beside it, in the project's folder: the site's own settings, and which Python.
# shellcheck shell=bash
#
# SITE     a script to source first: modules, proxies, SBATCH_PARTITION   (default: slurm/site.sh, if it is there)
# PYTHON   of the environment with this project                          (default: .venv/bin/python, or python)
SITE=${SITE:-slurm/site.sh}
if [ -f "$SITE" ]; then
    # shellcheck source=/dev/null
    source "$SITE"
fi
if [ -z "${PYTHON:-}" ]; then
    if [ -x .venv/bin/python ]; then PYTHON=.venv/bin/python; else PYTHON=python; fi
fi
