"""fairseq's view of the encoder: settings, named architectures and the model `linformer_roberta`."""

from linformer_fairseq.models.config import LinformerRobertaConfig
from linformer_fairseq.models.linformer_roberta import LinformerRobertaModel

__all__ = ["LinformerRobertaConfig", "LinformerRobertaModel"]
