"""Byte-pair encoding on bytes: `train_bpe` learns merges from text, `Tokenizer` applies them.

Text becomes ids in three steps. Special tokens are cut out first; a pattern splits what lies between into pretokens
(`patterns`); within a pretoken, pairs of neighbouring tokens merge in the order in which the merges were learned.
`reference` is all of it in a page of plain Python. What runs is the C++ core in `native/`, which gives the same
result; without it, tokenizers still load and decode.
"""

from groundup.tokenizer.streams import DecodeStream, EncodeStream
from groundup.tokenizer.tokenizer import Tokenizer
from groundup.tokenizer.training.counts import PretokenCounts
from groundup.tokenizer.training.train import train_bpe, train_bpe_from_documents

__all__ = ["DecodeStream", "EncodeStream", "PretokenCounts", "Tokenizer", "train_bpe", "train_bpe_from_documents"]
