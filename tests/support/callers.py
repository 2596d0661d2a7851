"""Models that keep what they were called with, and callers of them."""

import torch
from torch import nn

from cka_notebook._inputs.calls import Caller


class Recording(nn.Module):
    """Keeps what it was called with. Subclasses set the signature."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def record(self, **given):
        self.given = {key: value for key, value in given.items() if value is not None}


class Text(Recording):
    def forward(self, input_ids=None, attention_mask=None, labels=None):
        self.record(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


class Anything(Recording):
    def forward(self, **kwargs):
        self.record(**kwargs)


class NeedsLabels(Recording):
    def forward(self, x, labels):
        self.record(x=x, labels=labels)


class EncoderDecoder(Recording):
    class config:  # noqa: N801 the name that Hugging Face gives it
        is_encoder_decoder = True

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        decoder_input_ids=None,
        decoder_attention_mask=None,
    ):
        self.record(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
        )


class Shifting(EncoderDecoder):
    def prepare_decoder_input_ids_from_labels(self, labels):
        return labels.clamp_min(0).roll(1, 1)


def called(model, batch, forward=None):
    """What the model got, and the prepared call."""
    caller = Caller(model, "model1 (Test)", forward)
    call = caller.prepare(batch, 1)
    caller(call)
    return model.given, call


def caller_of(model, forward=None):
    return Caller(model, f"model1 ({type(model).__name__})", forward)
