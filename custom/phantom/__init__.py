"""A cohort that the project draws itself: seeded, files on disk, nothing downloaded.

``python -m custom.phantom 2d data/phantom_2d`` draws one form; :func:`ensure` does so once and then finds it again.

The hearts are short-axis views of a left ventricle (bullet), its muscle (ring) and a right ventricle (crescent) in a
chest with lungs, liver, vessels and a stomach. What differs between patients is what a few labels do not cover: disease
(shape), sequence (contrast, also its sign), position, neighbours that look alike, coil, noise. A patient is a function
of (seed, form, patient index) and of nothing else.
"""

from .cohort import FORMS, draw, draw_patient, ensure, form_named
from .form import CLASSES, LESION_CLASSES, Form, Patient

__all__ = ["CLASSES", "FORMS", "LESION_CLASSES", "Form", "Patient", "draw", "draw_patient", "ensure", "form_named"]
