"""A cohort that the project draws itself: seeded, files on disk, nothing downloaded.

``python -m custom.phantom 2d data/phantom_2d`` draws one form; :func:`ensure` does so once and then finds it again.

The hearts are short-axis views of a left ventricle (bullet), its muscle (ring) and a right ventricle (crescent) in a
chest with lungs, liver, vessels and a stomach. A patient is a function of (seed, form, patient index) and of nothing else.

What a few labels do not cover differs between the forms. In ``2d`` shape, contrast, noise, position and neighbours vary by
degrees, so that every patient has others like him: what real cohorts are, and what unlabelled scans can show. In
``unseen_contrast``, the same view, there are five diseases and four sequences, one of which ("dark blood", 15 %) no
labelled patient has: what no unlabelled scan can say. ``python -m benchmarks.phantom criterion`` measures both.
"""

from .cohort import FORMS, draw, draw_patient, ensure, form_named
from .form import CLASSES, LESION_CLASSES, Form, Patient

__all__ = ["CLASSES", "FORMS", "LESION_CLASSES", "Form", "Patient", "draw", "draw_patient", "ensure", "form_named"]
