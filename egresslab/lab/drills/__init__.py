"""Drills: traffic through an event, measured by what was sent and what was answered.

`traffic` and `witness` are programs of one file each that run inside pods; the rest stays with the notebook or the
command line. A drill must heal what it broke, also when it is interrupted, and must never take the controller's word
for a gap.
"""
