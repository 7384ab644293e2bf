//go:build seeded_delete_by_name

package seeded

// DeleteByName deletes whatever has the name, without the UID precondition.
const DeleteByName = true
