"""Where things lie that tests read."""

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
ROOT = TESTS.parent
SHARED = ROOT.parent / "shared"
CONFIGS = TESTS / "configs"
DATA = TESTS / "data"
GOLDEN = TESTS / "golden"
OLD_STORE = DATA / "store-1"
