"""The home of single files: a plugin in STEM.py, given by `--plugins-dir`, is the module `cellfeat.prototypes.STEM`.

Under this name it hides no installed module, whatever it is called, and every process that has the same environment
can import it. Nothing else is kept in here: a file may have any name, and would take its place.
"""

import os as _os
from pathlib import Path as _Path

__path__ = [
    str(_place.parent if _place.is_file() or (_place / "__init__.py").is_file() else _place)
    for _place in map(_Path, filter(None, _os.environ.get("CELLFEAT_PLUGINS_DIR", "").split(_os.pathsep)))
]
