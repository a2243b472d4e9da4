"""Text columns, written by a public language model that DP releases guide.

pretrained   the public models: found, verified, loaded
catalogue    which of them are there, and how to get the others
words        a public vocabulary, and texts as its words
embedding    texts as bounded whole-number vectors
taxonomy     a public tree of subjects
leaves       which of its leaves a text belongs to
guide        what is bought of a text column, and what follows from it
prompt       what the language model is asked to write
decoding     many texts at once, with a prefix that all share
drafts       texts before the choice among them
judges       public models and rules that give marks to texts
endpoint     an OpenAI-compatible endpoint as a judge, or as the teacher that writes
lexicon      whole words from a model of bytes
selection    which of its texts are kept
lora         low-rank updates of a model's layers
tuning       DP-SGD of them on the rows
tuned        rows in, texts out, with them
writer       all of it together: rows in, texts out
generator    public settings
"""
