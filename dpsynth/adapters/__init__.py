"""The two places that know SDV: its Metadata as a schema, and SDMetrics' quality score. Both load it when used, only.

SDV and its libraries are under the Business Source License 1.1; nothing else in dpsynth touches them.
"""
