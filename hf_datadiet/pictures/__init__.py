"""The pictures of a report, drawn from the report alone: one picture per file, and the only home of matplotlib.

`gallery` is the door. A picture's file has `draw(figure, picture, report)`: `picture` is its entry in `report.pictures` (`pictured`), the
figure is empty. What is drawn is hung on that figure and nowhere else: no pyplot, no current figure, nothing to close.
"""
