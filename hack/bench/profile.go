package main

import (
	"context"
	"errors"
)

func profile(context.Context, options) error { return errors.New("later") }
