"""The tasks that a card may name: the pipeline tags of the Hugging Face Hub.

From `packages/tasks/src/pipelines.ts` of huggingface.js, by what goes in: the Hub groups its models by exactly these.
"""

from __future__ import annotations

from typing import Final

# fmt: off
TASKS: Final = (
    # tables and time series
    "tabular-classification", "tabular-regression", "tabular-to-text", "table-to-text", "time-series-forecasting",
    # text
    "text-classification", "token-classification", "table-question-answering", "question-answering",
    "zero-shot-classification", "translation", "summarization", "feature-extraction", "text-generation",
    "text2text-generation", "fill-mask", "sentence-similarity", "multiple-choice", "text-ranking", "text-retrieval",
    # sound
    "text-to-speech", "text-to-audio", "automatic-speech-recognition", "audio-to-audio", "audio-classification",
    "voice-activity-detection",
    # pictures and video
    "depth-estimation", "image-classification", "object-detection", "image-segmentation", "text-to-image",
    "image-to-text", "image-to-image", "image-to-video", "unconditional-image-generation", "video-classification",
    "text-to-video", "video-to-video", "zero-shot-image-classification", "mask-generation",
    "zero-shot-object-detection", "text-to-3d", "image-to-3d", "image-feature-extraction", "keypoint-detection",
    # several at once
    "audio-text-to-text", "image-text-to-text", "image-text-to-image", "image-text-to-video", "video-text-to-text",
    "visual-question-answering", "document-question-answering", "visual-document-retrieval", "any-to-any",
    # others
    "biology", "reinforcement-learning", "robotics", "graph-ml", "other",
)
# fmt: on
