"""The parts of the page about a store: text, tables and bars in HTML, and the colours as SVG."""
