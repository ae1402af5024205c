"""Encoders in detectron2's format: conversion both ways, and weights by name."""
