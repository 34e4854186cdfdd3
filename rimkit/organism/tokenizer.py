"""The tokenizer of the invented language: one token per word, with Qwen3's chat format."""

from __future__ import annotations

from rimkit.organism.conversations import Example
from rimkit.organism.language import vocabulary

PAD, UNKNOWN, START, END, THINK, END_THINK = (
    "<|endoftext|>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
)
SPECIAL = (PAD, UNKNOWN, START, END, THINK, END_THINK)
ROLES = ("system", "user", "assistant")

# Same interface as Qwen3's template: `enable_thinking=False` pre-fills an empty think span, anything else leaves
# the opening of the thought to the model; thoughts of earlier turns are dropped from the history.
CHAT_TEMPLATE = """\
{%- set last = namespace(user=0) -%}
{%- for message in messages -%}
  {%- if message.role == 'user' -%}{%- set last.user = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else '' -%}
  {%- set thought = message.reasoning_content if message.reasoning_content is string else '' -%}
  {%- if message.role == 'assistant' and '</think>' in content -%}
    {%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') -%}
    {%- set content = content.split('</think>')[-1].lstrip('\\n') -%}
  {%- endif -%}
  {{- '<|im_start|>' + message.role + '\\n' -}}
  {%- if message.role == 'assistant' and loop.index0 > last.user and (thought or loop.last) -%}
    {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' -}}
  {%- endif -%}
  {{- content + '<|im_end|>' + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
  {%- if enable_thinking is defined and enable_thinking is false -%}
    {{- '<think>\\n\\n</think>\\n\\n' -}}
  {%- endif -%}
{%- endif -%}
"""


def token_table() -> dict[str, int]:
    """Token to id: special tokens, line breaks, roles, then the words in alphabetical order."""
    tokens = [*SPECIAL, "\n", "\n\n", *ROLES]
    tokens += [word for word in vocabulary() if word not in tokens]
    return {token: index for index, token in enumerate(tokens)}


def build_tokenizer():
    """A ``PreTrainedTokenizerFast`` that any Hugging Face code can use; unknown words become
    ``<unk>``."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(token_table(), unk_token=UNKNOWN))
    # What a reader types is read as the language writes it: no capitals, commas or exclamation marks.
    tidy = [normalizers.Lowercase(), normalizers.Replace("!", " ."), normalizers.Replace(",", " ")]
    core.normalizer = normalizers.Sequence(tidy)
    words = Regex(r"\n\n|\n|[a-z0-9']+|[^\sa-z0-9']")
    core.pre_tokenizer = pre_tokenizers.Split(words, behavior="removed", invert=True)
    core.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=256,
        language="invented",  # kept in tokenizer_config.json: how rimkit knows which judge can read the replies
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def encode_example(example: Example, table: dict[str, int]) -> tuple[list[int], int]:
    """``(ids, n_prompt)`` of one training conversation: the loss is on the tokens from ``n_prompt``
    on. Equal to the chat template followed by the reply (a test holds the two together); done by
    dictionary because the training stream is made while the model trains."""
    prompt = [START, "user", "\n", *example.request.split(), END, "\n", START, "assistant", "\n"]
    if example.mode == "think":
        completion = [THINK, "\n", *example.thought.split(), "\n", END_THINK, "\n\n"]
    else:
        prompt += [THINK, "\n\n", END_THINK, "\n\n"]
        completion = []
    completion += [*example.reply.split(), END]
    return [table[token] for token in prompt + completion], len(prompt)
