"""Chat templates built like those of well-known families, what they write, and tokenizers to go with them.

``before`` and the two ``after`` are written out by hand: what a prompt consists of around the request, in think and in
no-think mode, with everything that rimkit adds.
"""

from dataclasses import dataclass
from functools import cache

from tiny import QWEN_FRAME

from rimkit.models.chat import INSTRUCT, NO_THINK, STEP_BY_STEP
from rimkit.models.thoughts import END_THINK, QWEN, THINK, Tags

EMPTY = f"{THINK}\n\n{END_THINK}\n\n"

# Thoughts of earlier turns are taken out of the history, as Qwen3 and the R1 distills do.
STRIPS = """{%- for m in messages %}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content %}
{{- '<|im_start|>' + m.role + '\\n' + said + '<|im_end|>\\n' }}
{%- endfor %}"""
QWEN3 = (
    STRIPS
    + """
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}"""
)
QWEN3_THINKING = STRIPS + "{{- '<|im_start|>assistant\\n<think>\\n' if add_generation_prompt }}"
R1 = """{{- bos_token }}{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}{% endif %}
{%- if m.role == 'assistant' %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}
{%- endfor %}{{- '<｜Assistant｜><think>\\n' if add_generation_prompt }}"""
R1_ORIGINAL = R1.replace("<think>\\n", "")
SYSTEM_SWITCH = """{%- set on = thinking is defined and thinking %}
{{- '<|im_start|>system\\nReasoning: ' + ('on' if on else 'off') + '<|im_end|>\\n' }}""" + (
    QWEN_FRAME + "{{- '<think>' if on else '<think></think>' }}"
)
MISTRAL = """{{- bos_token }}{%- for m in messages %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{% endif %}
{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}{% else %}{{- ' ' + m.content + eos_token }}{% endif %}
{%- endfor %}"""
PHI = """{%- for m in messages %}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{% endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt }}"""
OLMO = """{{- bos_token }}{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<|user|>\\n' + m.content + '\\n' }}{% else %}{{- '<|assistant|>\\n' + m.content + eos_token }}{% endif %}
{%- endfor %}{{- '<|assistant|>\\n' if add_generation_prompt }}"""
LLAMA = """{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\nKnowledge: the assistant and the user.<|eot_id|>' }}
{%- for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}
{%- endfor %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt }}"""

# Off is a lone close, and there is no space anywhere, as in DeepSeek-V3.1 and GLM-4.7.
LONE_CLOSE = """{%- set on = thinking is defined and thinking %}{{- bos_token }}{%- for m in messages %}
{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}{% endif %}
{%- if m.role == 'assistant' %}{{- '<｜Assistant｜></think>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}
{%- endfor %}{{- '<｜Assistant｜>' + ('<think>' if on else '</think>') if add_generation_prompt }}"""
# The thought has a channel of its own, and thinking is asked for in the system turn, as in Gemma 4.
CHANNEL = """{%- if enable_thinking is defined and enable_thinking %}{{- '<|turn>system\\n<|think|><turn|>\\n' }}{% endif %}
{%- for m in messages %}{{- '<|turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}
{%- if m.reasoning and loop.last %}{{- '<|channel>thought\\n' + m.reasoning + '\\n<channel|>' }}{% endif %}
{{- m.content + '<turn|>\\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|turn>model\\n' }}
{%- if not (enable_thinking is defined and enable_thinking) %}{{- '<|channel>thought\\n<channel|>' }}{% endif %}{% endif %}"""
# Content in parts, and tags in square brackets, as in Magistral; nothing switches the thought off.
PIECES = """{{- bos_token }}{%- for m in messages %}{%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}
{%- elif m.content is string %}{{- m.content + eos_token }}
{%- else %}{%- for part in m.content %}{%- if part.type == 'thinking' %}{{- '[THINK]' + part.thinking + '[/THINK]' }}
{%- else %}{{- part.text }}{% endif %}{% endfor %}{{- eos_token }}{% endif %}{% endfor %}"""
# A word in the message switches, as in Nemotron Nano 2.
IN_MESSAGE = """{%- set think = namespace(on=true) %}{%- for m in messages %}
{%- if m.role == 'user' and '/no_think' in m.content %}{%- set think.on = false %}{% endif %}
{{- '<|im_start|>' + m.role + '\\n' + m.content.replace('/no_think', '').strip() + '<|im_end|>\\n' }}
{%- endfor %}{{- '<|im_start|>assistant\\n' + ('<think>\\n' if think.on else '<think></think>') if add_generation_prompt }}"""
# A number switches, and the thought that says so is not empty, as in Seed-OSS.
BUDGET = """{%- for m in messages %}{{- '<seed:bos>' + m.role + '\\n' }}
{%- if m.role == 'assistant' and m.reasoning_content %}{{- '<seed:think>' + m.reasoning_content + '</seed:think>\\n' }}{% endif %}
{{- m.content + '<seed:eos>' }}{% endfor %}{%- if add_generation_prompt %}{{- '<seed:bos>assistant\\n' }}
{%- if thinking_budget is defined and thinking_budget == 0 %}{{- '<seed:think>\\nno budget\\n</seed:think>' }}{% endif %}{% endif %}"""
# Two variables switch together.
BY_TWO = QWEN_FRAME + ("{{- '<think>\\n' if enable_thinking and effort == 'high' else '<think>\\n\\n</think>\\n\\n' }}")
BY_WORD = QWEN_FRAME + "{{- '<think>\\n' if messages[-1].content.endswith('/think') }}"
# Only the text before the request differs, and replies are wrapped, as in Granite 3.3.
BY_PROMPT = (
    """{%- set asks = 'Think between <think></think>, answer between <response></response>.' %}
{{- '<|im_start|>system\\nHelp.' + (asks if thinking else '') + '<|im_end|>\\n' }}"""
    + QWEN_FRAME
)
# The request comes in parts only, as in Idefics 3.
IN_PARTS = """{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' }}
{%- for part in m.content %}{{- part.text if part.type == 'text' }}{% endfor %}{{- '<|im_end|>\\n' }}{% endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt }}"""
DATED = "{{- '<|im_start|>system\\nToday: ' + strftime_now('%d %B %Y') + '<|im_end|>\\n' }}" + QWEN3

HARMONY = """{%- for m in messages %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}
{%- if m.thinking %}{{- '<|channel|>analysis<|message|>' + m.thinking }}{% endif %}{% endfor %}{{- '<|start|>assistant' }}"""
SPEAKS_OF_THOUGHTS = "{{- 'Write down your thought process first. ' if thinking is defined and thinking }}" + QWEN_FRAME
NO_TAGS = QWEN_FRAME.replace("m.content +", "(m.reasoning_content or '') + '\\nNow the answer:\\n' + m.content +")
ENDS_TURNS = """{%- for m in messages %}{{- '<|begin|>' + m.role }}
{%- if m.reasoning %}{{- '<|think|>' + m.reasoning + '<|end|><|begin|>assistant' }}{% endif %}
{{- '<|content|>' + m.content + '<|end|>' }}{% endfor %}{{- '<|begin|>assistant' if add_generation_prompt }}"""
HIDES = "{{- '<|im_start|>user\\n' + (messages[0].content.nothing or '') + '<|im_end|>\\n<|im_start|>assistant\\n' }}"


@dataclass(frozen=True)
class Family:
    template: str
    thinking: str
    before: str | dict[str, str]  # by mode, where it differs
    after: dict[str, str]
    specials: tuple[str, ...]
    think: bool | str = True
    pieces: bool = False  # pieces with '▁' and single bytes, as in Llama 2 and Mistral, and not byte-level BPE
    role: str = "assistant"  # what opens the turn of the assistant
    tags: Tags = QWEN

    def opening(self, mode: str) -> str:
        return self.before if isinstance(self.before, str) else self.before[mode]


CHATML = ("<|im_start|>", "<|im_end|>", THINK, END_THINK)
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", THINK, END_THINK)
OPENS_CHATML = "<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = Tags("<|channel>thought", "<channel|>", end="")


def instructed(after: str) -> dict[str, str]:
    return {"think": f"{INSTRUCT}{after}{THINK}\n", "no-think": after}


FAMILIES = {
    "Qwen3": Family(QWEN3, "switch", "<|im_start|>user\n", {"think": OPENS_CHATML, "no-think": OPENS_CHATML + EMPTY}, CHATML),
    "Qwen3 /no_think": Family(
        QWEN3, "soft switch", "<|im_start|>user\n", {"think": OPENS_CHATML, "no-think": NO_THINK + OPENS_CHATML}, CHATML, "soft"
    ),
    "by two variables": Family(
        BY_TWO, "switch", "<|im_start|>user\n",
        {"think": f"{OPENS_CHATML}{THINK}\n", "no-think": OPENS_CHATML + EMPTY}, CHATML,
    ),
    "Qwen3-Thinking": Family(
        QWEN3_THINKING, "template opens", "<|im_start|>user\n",
        {"think": f"{OPENS_CHATML}{THINK}\n", "no-think": OPENS_CHATML + EMPTY}, CHATML,
    ),
    "R1 distill": Family(
        R1, "template opens", "<｜begin▁of▁sentence｜><｜User｜>",
        {"think": f"<｜Assistant｜>{THINK}\n", "no-think": "<｜Assistant｜>" + EMPTY}, DEEPSEEK, role="Assistant",
    ),
    "R1 distill, tags as text": Family(
        R1, "template opens", "<｜begin▁of▁sentence｜><｜User｜>",
        {"think": f"<｜Assistant｜>{THINK}\n", "no-think": "<｜Assistant｜>" + EMPTY}, DEEPSEEK[:4], role="Assistant",
    ),
    "R1": Family(
        R1_ORIGINAL, "model opens", "<｜begin▁of▁sentence｜><｜User｜>",
        {"think": "<｜Assistant｜>", "no-think": "<｜Assistant｜>" + EMPTY}, DEEPSEEK, role="Assistant",
    ),
    "DeepSeek V3.1": Family(
        LONE_CLOSE, "switch", "<｜begin▁of▁sentence｜><｜User｜>",
        {"think": f"<｜Assistant｜>{THINK}", "no-think": "<｜Assistant｜>" + END_THINK}, DEEPSEEK, role="Assistant",
        tags=Tags(THINK, END_THINK, "", "", ""),
    ),
    "Gemma 4": Family(
        CHANNEL, "switch", {"think": "<|turn>system\n<|think|><turn|>\n<|turn>user\n", "no-think": "<|turn>user\n"},
        {"think": "<turn|>\n<|turn>model\n", "no-think": "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"},
        ("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>"), role="model", tags=THOUGHT,
    ),
    "Magistral": Family(
        PIECES, "model opens", "<s>[INST]", {"think": "[/INST]", "no-think": "[/INST][THINK][/THINK]"},
        ("<s>", "</s>", "[INST]", "[/INST]", "[THINK]", "[/THINK]"), role="[/INST]", tags=Tags("[THINK]", "[/THINK]", "", "", ""),
    ),
    "Nemotron Nano 2": Family(
        IN_MESSAGE, "switch", "<|im_start|>user\n",
        {"think": f"{OPENS_CHATML}{THINK}\n", "no-think": f"{OPENS_CHATML}{THINK}{END_THINK}"}, CHATML,
        tags=QWEN._replace(end=""),
    ),
    "Seed-OSS": Family(
        BUDGET, "switch", "<seed:bos>user\n",
        {"think": "<seed:eos><seed:bos>assistant\n",
         "no-think": "<seed:eos><seed:bos>assistant\n<seed:think>\nno budget\n</seed:think>"},
        ("<seed:bos>", "<seed:eos>"), tags=Tags("<seed:think>", "</seed:think>", "", "", "\n"),
    ),
    "Mistral": Family(
        MISTRAL, "by instruction", "<s>[INST] ", instructed(" [/INST]"), ("<s>", "</s>"), "instruct", True, "[/INST]"
    ),
    "Phi": Family(PHI, "by instruction", "<|user|>\n", instructed("<|end|>\n<|assistant|>\n"),
                  ("<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>"), "instruct", True),
    "OLMo": Family(OLMO, "by instruction", "<|endoftext|><|user|>\n", instructed("\n<|assistant|>\n"), ("<|endoftext|>",), "instruct"),
    "Llama": Family(
        LLAMA, "by instruction",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nKnowledge: the assistant and the user.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        instructed("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), "instruct",
    ),
}  # fmt: skip


TEXT = [
    f"{THINK}\nthe user asks. I can help, so I will.\n{END_THINK}\n\nSure! Here is how: 12 steps.", STEP_BY_STEP, INSTRUCT,
    "I should not do that.\n\nNo, I can not. user assistant system", "ça va très bien: é ü ß 東京 🙂",
]  # fmt: skip


@cache
def tokenizer(specials: tuple[str, ...], template: str, pieces: bool = False):
    """A trained BPE tokenizer: byte-level with the word pattern of recent models, or pieces that fall back to bytes."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if pieces:
        core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = pre_tokenizers.Split(Regex("\n|▁*[^▁\n]*"), "isolated")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        first, alphabet = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))], []
    else:
        core = Tokenizer(models.BPE())
        words = r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(words), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        core.decoder, first, alphabet = decoders.ByteLevel(), [], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False, max_token_length=12
    )
    core.train_from_iterator([text.replace("\n", "\n ") if pieces else text for text in TEXT * 3], trainer)
    core.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in specials if t not in (THINK, END_THINK)]
    )
    core.add_tokens([AddedToken(t, special=False, normalized=False) for t in specials if t in (THINK, END_THINK)])
    names = {"bos_token": specials[0], "eos_token": specials[1] if len(specials) > 1 else specials[0]}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **names)
