"""Views: what there is and what happens, drawn. Each has a text form, a still form (SVG in HTML), some a live one.

Drawn from values, without a dependency and without a script; lines and text take the page's own colour, so that they
read on light and on dark. A view must never say with colour alone what it does not say in words.
"""
