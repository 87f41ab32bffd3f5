"""Validation images of a model: as they are, as it sees them, and with what it fills in."""

from io import BytesIO

from PIL import Image
from torch import Tensor

from data_prep.fairseq_dict import MASK
from data_prep.palette import PaletteEncoder
from linformer_fairseq.reporting.model import Filled


def pictures_of(sample: Filled, encoder: PaletteEncoder) -> dict[str, bytes]:
    """PNG files by their labels, a pixel of them for one of the image."""

    def png(ids: Tensor) -> bytes:
        content = BytesIO()
        Image.fromarray(encoder.picture(ids[1 : 1 + encoder.side**2].numpy())).save(content, "PNG")
        return content.getvalue()

    given = sample.ids.masked_fill(sample.masked, encoder.names.index(MASK))
    return {"image": png(sample.ids), "what the model sees": png(given), "what it fills in": png(sample.filled)}
