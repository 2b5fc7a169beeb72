"""Whole runs: which stages there are, in what order, and how a killed run goes on."""

from gorae.recipes.evidence import run_evidence
from gorae.recipes.laptop import STAGES, make_models, report, run_laptop
from gorae.recipes.measure import evaluate_folder
from gorae.recipes.run import Run
from gorae.recipes.serving import model_name, serve_model, served_model
from gorae.recipes.settings import EvaluateSettings, LaptopSettings, ServeSettings

__all__ = [
    "STAGES",
    "EvaluateSettings",
    "LaptopSettings",
    "Run",
    "ServeSettings",
    "evaluate_folder",
    "make_models",
    "model_name",
    "report",
    "run_evidence",
    "run_laptop",
    "serve_model",
    "served_model",
]
