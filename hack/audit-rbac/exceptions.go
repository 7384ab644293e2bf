package main

// operatorExceptions are rights of the operator that the stories need not use.
var operatorExceptions = map[right]string{}
