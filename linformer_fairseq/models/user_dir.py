"""fairseq imports every file of this folder when it loads the user-dir, and only then; so it registers the rest."""

from linformer_fairseq.plugin import register

register()
