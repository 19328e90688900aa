package stepio

type batchBuffers struct{}
