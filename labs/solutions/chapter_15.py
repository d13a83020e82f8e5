"""Solutions of chapter 15. Each function is what a learner could have written into the exercise's cell."""

from egresslab.lab import Lab, exam


def put_it_right(lab: Lab) -> None:
    """Every policy as it should be; a learner mends those that are spoilt."""
    for app in exam.APPS:
        lab.apply(exam.policy(app, lab.current_namespace))
