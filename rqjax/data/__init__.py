"""Image files and prepared sets to global batches."""

from rqjax.data.config import DataConfig, open_source
from rqjax.data.held_out import HeldOut
from rqjax.data.pipeline import Stream, batches, examples, rows_of_batches
from rqjax.data.walk import skipped

__all__ = ["DataConfig", "HeldOut", "Stream", "batches", "examples", "open_source", "rows_of_batches", "skipped"]
