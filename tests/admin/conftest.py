"""What tests of the admin API share."""

from support.admin import admin as admin
