"""Encoders as detectron2 reads them: conversion both ways, and weights by name."""
