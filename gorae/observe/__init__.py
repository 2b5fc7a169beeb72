"""What a run shows and keeps of itself: log lines and progress for people, metrics as numbers, and the bill."""

from gorae.observe.alarms import ALARMS, Alarm, Watch, rung
from gorae.observe.bill import Bill, PublishedBill, StageBill, read_published
from gorae.observe.figures import format_bytes, format_count, format_flops, format_hours, format_seconds, format_usd
from gorae.observe.ledger import Ledger, Meter, Spent
from gorae.observe.log import log
from gorae.observe.memory import HeldMemory, control_group_texts, held_memory, memory_bytes
from gorae.observe.metrics import MetricsWriter, read_metrics
from gorae.observe.prices import Price, PriceTable, read_prices
from gorae.observe.processor import processor_name
from gorae.observe.progress import Progress, progress
from gorae.observe.replace import replace_text

__all__ = [
    "ALARMS",
    "Alarm",
    "Bill",
    "HeldMemory",
    "Ledger",
    "Meter",
    "MetricsWriter",
    "Price",
    "PriceTable",
    "Progress",
    "PublishedBill",
    "Spent",
    "StageBill",
    "Watch",
    "control_group_texts",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_hours",
    "format_seconds",
    "format_usd",
    "held_memory",
    "log",
    "memory_bytes",
    "processor_name",
    "progress",
    "read_metrics",
    "read_prices",
    "read_published",
    "replace_text",
    "rung",
]
