"""The ground of every other part: errors, records, files, plug-ins, weights, chat, templates, processes."""
