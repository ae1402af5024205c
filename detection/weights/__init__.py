"""Encoders in detectron2's format: conversion in both directions, and weights by name."""
