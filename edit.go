package lb

import "errors"

var errEdit = errors.New("not yet")

// Objects is the part of a document that holds objects: the sections
// listeners, routes, pools and services, as they stand, with their comments.
func Objects(doc []byte) []byte { return doc }

// Settings is the rest of a document: everything but the objects.
func Settings(doc []byte) []byte { return doc }

// AddBackend adds a backend to a pool of the document and leaves all else as
// it stands, comments included. The edited document is not validated.
func AddBackend(doc []byte, pool string, b Backend) ([]byte, error) { return nil, errEdit }

// SetBackend replaces the backend of b's address.
func SetBackend(doc []byte, pool string, b Backend) ([]byte, error) { return nil, errEdit }

// RemoveBackend takes a backend out of a pool.
func RemoveBackend(doc []byte, pool, address string) ([]byte, error) { return nil, errEdit }
