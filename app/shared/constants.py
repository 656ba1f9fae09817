"""Lists the values that scripts share with Python, so that each is written once."""

from __future__ import annotations

from dataclasses import asdict

from ringlens.analysis.roles import ROLES
from ringlens.app.shared.parts import BLANKS, NOTHING
from ringlens.plot.palette import DARK, GROUP_SPREAD, LIGHT, PHASE_HUES, START_HUE
from ringlens.store.schema.captured import PHASES
from ringlens.store.schema.glossary import GLOSSARY

NO_STEP = 0xFFFFFFFF
"""Stands for the parent of a step that is known to have none, and for a step that is not there."""

CONSTANTS = {
    "PHASES": list(PHASES),
    "PHASE_HUES": [PHASE_HUES[phase] for phase in PHASES],
    "START_HUE": START_HUE,
    "GROUP_SPREAD": GROUP_SPREAD,
    "HEAT": {"dark": list(DARK.sequential), "light": list(LIGHT.sequential)},
    "DIVERGING": {"dark": list(DARK.diverging), "light": list(LIGHT.diverging)},
    "WARM": {"dark": list(DARK.warm), "light": list(LIGHT.warm)},
    "BLANKS": BLANKS,
    "NOTHING": NOTHING,
    "NO_STEP": NO_STEP,
    "ROLES": list(ROLES),
    "GLOSSARY": {name: asdict(term) for name, term in GLOSSARY.items()},
}
"""Exports of ``shared/constants.js``; ``constants.d.ts`` has their types."""
