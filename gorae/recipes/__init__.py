"""Whole runs: which stages there are, in what order, and how a killed run goes on."""

from gorae.recipes.distill import SOURCES, TaskDistillSettings, TeachSettings, distil_on_task
from gorae.recipes.evidence import run_evidence
from gorae.recipes.examples import ExamplesSettings, PreferencesSettings, tune_on_examples, tune_on_preferences
from gorae.recipes.laptop import STAGES, make_models, report, run_laptop
from gorae.recipes.measure import evaluate_folder
from gorae.recipes.parity import ParityReport, run_parity
from gorae.recipes.run import Run, set_up_process
from gorae.recipes.serving import model_name, serve_model, served_model
from gorae.recipes.settings import EvaluateSettings, LaptopSettings, ServeSettings, TuneSettings
from gorae.recipes.speed import Peaks, Speed, SpeedReport, measure_peaks, measure_speed
from gorae.recipes.task import TaskSettings, evaluate_on_task, tune_on_task
from gorae.recipes.teach import distil_from_logits, distil_on_policy

__all__ = [
    "SOURCES",
    "STAGES",
    "EvaluateSettings",
    "ExamplesSettings",
    "LaptopSettings",
    "ParityReport",
    "Peaks",
    "PreferencesSettings",
    "Run",
    "ServeSettings",
    "Speed",
    "SpeedReport",
    "TaskDistillSettings",
    "TaskSettings",
    "TeachSettings",
    "TuneSettings",
    "distil_from_logits",
    "distil_on_policy",
    "distil_on_task",
    "evaluate_folder",
    "evaluate_on_task",
    "make_models",
    "measure_peaks",
    "measure_speed",
    "model_name",
    "report",
    "run_evidence",
    "run_laptop",
    "run_parity",
    "serve_model",
    "served_model",
    "set_up_process",
    "tune_on_examples",
    "tune_on_preferences",
    "tune_on_task",
]
