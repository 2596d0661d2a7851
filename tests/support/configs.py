"""Configurations of small Hugging Face models."""

import transformers as hf

SMALL = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def gpt2_config(layers=12):
    sizes = {"vocab_size": 100, "n_embd": 16, "n_layer": layers, "n_head": 2}
    return hf.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)


def t5_config():
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2}
    return hf.T5Config(vocab_size=100, **sizes, decoder_start_token_id=0)


def llama_config(layers=3):
    sizes = SMALL | {"num_hidden_layers": layers}
    return hf.LlamaConfig(**sizes, num_key_value_heads=2)
